package moe

import (
	"encoding/binary"

	"github.com/dsbatch/dsbatch/kernels"
)

// placedSlots is the slots of a rank's tokens when experts do not lie in their own order over the ranks.
type placedSlots struct {
	hostOrder, hostPlace []byte
	rows                 []int
	order, inverse       kernels.Tensor // the slot that each place takes, and the place of each slot
	choices, place       kernels.Tensor // those of the routing, by place
}

func (p *placedSlots) tensors() []*kernels.Tensor {
	return []*kernels.Tensor{&p.order, &p.inverse, &p.choices, &p.place}
}

// arrange puts slots, which lie by expert, into the order of the experts' places, each copy of an expert its part of them: r
// gets other Choices and another Place, and sendRows is counted by place. What a token's choices add up to does not
// change: Combine goes by its choices.
func (l *Layer) arrange(s kernels.Stream, r *kernels.Routing, sent int, b *exchangeBuffers) error {
	if l.Places == nil {
		return nil
	}
	p := &b.placed
	p.hostOrder, p.rows = p.hostOrder[:0], p.rows[:0]
	p.hostPlace = append(p.hostPlace[:0], make([]byte, 4*sent)...)
	for _, place := range l.Places {
		from, to := place.Part(b.sendRows[place.Expert])
		first := int(binary.LittleEndian.Uint32(b.host[4*place.Expert:]))
		for slot := first + from; slot < first+to; slot++ {
			binary.LittleEndian.PutUint32(p.hostPlace[4*slot:], uint32(len(p.hostOrder)/4))
			p.hostOrder = binary.LittleEndian.AppendUint32(p.hostOrder, uint32(slot))
		}
		p.rows = append(p.rows, to-from)
	}
	b.sendRows = append(b.sendRows[:0], p.rows...)
	choices := r.Expert.Rows * r.K
	for _, t := range []struct {
		what string
		to   *kernels.Tensor
		cols int
	}{{"order of slots", &p.order, sent}, {"places of slots", &p.inverse, sent}, {"choices by place", &p.choices, sent}, {"places of choices", &p.place, choices}} {
		if _, err := b.room(t.to, t.what, kernels.I32, 1, t.cols); err != nil {
			return err
		}
	}
	order, inverse := p.order.ColRange(0, sent), p.inverse.ColRange(0, sent)
	s.Write(order, p.hostOrder)
	s.Write(inverse, p.hostPlace)
	byPlace, place := p.choices.ColRange(0, sent), p.place.ColRange(0, choices)
	s.Select(byPlace.Reshape(sent, 1), r.Choices.ColRange(0, sent).Reshape(sent, 1), order, 1)
	s.Copy(place, r.Place)
	s.Select(place.Reshape(choices, 1), inverse.Reshape(sent, 1), r.Place, 1) // -1, a dropped choice, stays
	r.Choices, r.Place = byPlace, place
	return nil
}
