package chat

import (
	"encoding/json"
	"fmt"
	"testing"
)

// BenchmarkRender renders a chat of a system text, a question, an answer and a question, as JSON from a data set, by each
// family's template, on one core.
func BenchmarkRender(b *testing.B) {
	var chat Chat
	for _, m := range [][2]string{{"system", "You are a helpful assistant."}, {"user", "What is the capital of France?"},
		{"assistant", "The capital of France is Paris."}, {"user", "And of Spain? Answer in one word, please."}} {
		chat.Messages = append(chat.Messages, json.RawMessage(fmt.Sprintf(`{"role": %q, "content": %q}`, m[0], m[1])))
	}
	chat.AddGenerationPrompt, chat.Now = true, one.Now
	for _, f := range readCases(b) {
		if f.Template == "" {
			continue
		}
		c := chat
		if f.Folder == "mixtral" || f.Folder == "gemma" {
			c.Messages = c.Messages[1:] // no system text there
		}
		_, _, tokens := f.chatOf(b, 0)
		t, err := Parse(f.Template)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(f.Folder, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := t.render(&c, tokens); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "chats/s")
		})
	}
}
