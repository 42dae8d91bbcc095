package mpi

import (
	"context"
	"slices"
)

// seat is a rank's place in a room: the transport of an in-process rank.
type seat struct {
	room *room
	rank int
	open <-chan struct{} // of the exchange begun last: closed when every rank has come
}

func (s *seat) barrier(ctx context.Context) error {
	return s.together(ctx, post{op: "barrier"}, nil)
}

func (s *seat) bcast(ctx context.Context, root int, b []byte) error {
	return s.together(ctx, post{op: "broadcast", root: root, send: b}, func(posts []post) error {
		from := posts[root].send
		if len(from) != len(b) {
			return s.differ(root, int64(len(from)), int64(len(b)))
		}
		if s.rank != root {
			copy(b, from)
		}
		return nil
	})
}

func (s *seat) allGather(ctx context.Context, send, recv []byte) error {
	return s.together(ctx, post{op: "all-gather", send: send}, func(posts []post) error {
		for i, p := range posts {
			if len(p.send) != len(send) {
				return s.differ(i, int64(len(p.send)), int64(len(send)))
			}
			copy(recv[i*len(send):], p.send)
		}
		return nil
	})
}

func (s *seat) allGatherV(ctx context.Context, send, recv []byte, recvCounts []int64) error {
	return s.together(ctx, post{op: "all-gather of unequal lengths", send: send}, func(posts []post) error {
		for i, p := range posts {
			if int64(len(p.send)) != recvCounts[i] {
				return s.differ(i, int64(len(p.send)), recvCounts[i])
			}
			recv = recv[copy(recv, p.send):]
		}
		return nil
	})
}

func (s *seat) allReduce(ctx context.Context, op Op, v []int64) error {
	var result []int64
	err := s.together(ctx, post{op: "all-reduce", root: int(op), number: v}, func(posts []post) error {
		result = make([]int64, len(v))
		for i, p := range posts {
			if len(p.number) != len(v) {
				return s.differ(i, 8*int64(len(p.number)), 8*int64(len(v)))
			}
			if i == 0 {
				copy(result, p.number)
				continue
			}
			for j, x := range p.number {
				switch op {
				case Sum:
					result[j] += x
				case Max:
					result[j] = max(result[j], x)
				case Min:
					result[j] = min(result[j], x)
				}
			}
		}
		return nil
	})
	if err == nil {
		copy(v, result) // nobody reads v any more
	}
	return err
}

func (s *seat) allToAll(ctx context.Context, send, recv []byte) error {
	return s.together(ctx, post{op: "all-to-all", send: send}, func(posts []post) error {
		piece := len(send) / len(posts)
		for i, p := range posts {
			if len(p.send) != len(send) {
				return s.differ(i, int64(len(p.send)), int64(len(send)))
			}
			copy(recv[i*piece:], p.send[s.rank*piece:(s.rank+1)*piece])
		}
		return nil
	})
}

func (s *seat) beginAllToAllV(_ context.Context, send []byte, sendCounts []int64, recv []byte, recvCounts []int64) (func(context.Context) error, error) {
	p := post{op: "all-to-all of unequal lengths", send: send, counts: sendCounts}
	return s.begin(p, func(posts []post) error {
		for i, p := range posts {
			if p.counts[s.rank] != recvCounts[i] {
				return s.differ(i, p.counts[s.rank], recvCounts[i])
			}
			var before int64
			for _, n := range p.counts[:s.rank] {
				before += n
			}
			recv = recv[copy(recv, p.send[before:before+recvCounts[i]]):]
		}
		return nil
	})
}

func (s *seat) testAllToAllV() bool {
	select {
	case <-s.open:
	case <-s.room.fate.dead:
	default:
		return false
	}
	return true
}

func (s *seat) split(ctx context.Context, color, key int) (child transport, rank, size int, err error) {
	r := s.room
	p := post{op: "split", number: []int64{int64(color), int64(key)}}
	err = s.together(ctx, p, func(posts []post) error {
		if color < 0 {
			return nil
		}
		var members []int
		for i, p := range posts {
			if p.number[0] == int64(color) {
				members = append(members, i)
			}
		}
		slices.SortStableFunc(members, func(a, b int) int { return int(posts[a].number[1] - posts[b].number[1]) })
		size, rank = len(members), slices.Index(members, s.rank)
		child = &seat{room: r.birth(color, members), rank: rank}
		return nil
	})
	return child, rank, size, err
}

func (s *seat) node(ctx context.Context) (child transport, rank, size int, err error) {
	return s.split(ctx, 0, s.rank)
}
