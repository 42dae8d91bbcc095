package dataset

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/google/go-cmp/cmp"
)

// TestNullsInMessages: a null field of a struct is absent, but a message's content is null, as JSON would say it.
func TestNullsInMessages(t *testing.T) {
	text := arrow.BinaryTypes.String
	call := arrow.StructOf(arrow.Field{Name: "content", Type: text, Nullable: true}, arrow.Field{Name: "id", Type: text, Nullable: true})
	message := arrow.StructOf(arrow.Field{Name: "role", Type: text, Nullable: true}, arrow.Field{Name: "content", Type: text, Nullable: true},
		arrow.Field{Name: "call", Type: call, Nullable: true})
	a, _, err := array.FromJSON(memory.DefaultAllocator, arrow.ListOf(message),
		strings.NewReader(`[[{"role": "user", "content": "a"}, {"role": "assistant", "call": {"id": "x"}}]]`))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Release()
	got, err := messages(a, 0)
	want := []json.RawMessage{json.RawMessage(`{"role":"user","content":"a"}`), json.RawMessage(`{"role":"assistant","content":null,"call":{"id":"x"}}`)}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
