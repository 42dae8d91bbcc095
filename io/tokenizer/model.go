package tokenizer

import (
	"encoding/json"
	"fmt"
)

// model turns a piece into ids. It is safe for concurrent use.
type model interface {
	append(ids []int32, piece string) ([]int32, error)
	vocabulary() map[string]int32
}

const modelKinds = "BPE, WordPiece, WordLevel, Unigram"

func readModel(raw json.RawMessage, byteLevel bool) (model, error) {
	kind, err := kindOf(raw)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "BPE", "": // files of before 2020 name no type, and are BPE where they have merges
		return readBPE(raw, byteLevel)
	case "WordPiece":
		return readWordPiece(raw)
	case "Unigram":
		return readUnigram(raw)
	case "WordLevel":
		return readWordLevel(raw)
	}
	return nil, fmt.Errorf("%s: %w", kind, unknownKind("model", modelKinds))
}

// largestID bounds ids: the largest vocabularies in use have a quarter of a million pieces, and tables are as long
// as the largest id.
const largestID = 1<<22 - 1

// checkIDs refuses ids out of range and ids that two pieces share.
func checkIDs(vocab map[string]int32) error {
	taken := make([]bool, len(vocab))
	var far map[int32]bool // ids beyond the number of pieces, of which a good file has few
	for piece, id := range vocab {
		twice := false
		switch {
		case id < 0 || id > largestID:
			return fmt.Errorf("vocab: %q has the id %d, outside 0 to %d", piece, id, largestID)
		case int(id) < len(taken):
			twice, taken[id] = taken[id], true
		default:
			if far == nil {
				far = map[int32]bool{}
			}
			twice, far[id] = far[id], true
		}
		if twice {
			return fmt.Errorf("vocab: the id %d belongs to %q and to another piece", id, piece)
		}
	}
	return nil
}
