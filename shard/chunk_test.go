package shard

import (
	"testing"

	"pgregory.net/rapid"
)

func TestChunksCoverEveryRowOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		files := rapid.SliceOf(rapid.Int64Range(0, 500)).Draw(t, "rows of files")
		size := rapid.Int64Range(1, 200).Draw(t, "size")
		var rows, file, at int64 // the next row: globally, and in which file
		for i, c := range Chunks(files, size) {
			for files[file] == at {
				file, at = file+1, 0
			}
			if c.Index != i || int64(c.File) != file || c.From != at || c.First != rows || c.Rows() < 1 || c.Rows() > size {
				t.Fatalf("chunk %d is %+v, want rows from %d of file %d, global %d", i, c, at, file, rows)
			}
			rows, at = rows+c.Rows(), c.To
		}
		var want int64
		for _, n := range files {
			want += n
		}
		if rows != want {
			t.Fatalf("%d rows in chunks, %d in files", rows, want)
		}
	})
}

func TestChunkRows(t *testing.T) {
	for rows, want := range map[int64]int64{0: 64, 1: 64, 65_536: 64, 65_537: 65, 10_000_000: 9766, 1_000_000_000: 976_563} {
		if got := ChunkRows(rows); got != want {
			t.Errorf("%d rows: chunks of %d, want %d", rows, got, want)
		}
	}
	for _, rows := range []int64{1, 99, 70_000, 123_456_789, 1_000_000_000_000} {
		if parts := len(Chunks([]int64{rows}, ChunkRows(rows))); parts > 10_000 {
			t.Errorf("%d rows make %d parts", rows, parts)
		}
	}
}

func TestSpreadExperts(t *testing.T) {
	if _, err := Spread(64, 12); err == nil {
		t.Error("64 experts over 12 ranks accepted")
	}
	e, err := Spread(8, 4)
	if err != nil {
		t.Fatal(err)
	}
	for rank := range 4 {
		if from, to := e.Range(rank); from != 2*rank || to != from+e.Local() {
			t.Errorf("rank %d holds experts %d to %d", rank, from, to)
		}
	}
}
