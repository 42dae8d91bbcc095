package comm

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/kernels/windowtest"
	"github.com/dsbatch/dsbatch/mpi"
)

func floatsOf(b []byte) []float32 {
	x := make([]float32, len(b)/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return x
}

func bytesOf(x []float32) (b []byte) {
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func random(rng *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64() * math.Exp2(float64(rng.IntN(12)-6)))
	}
	return x
}

// TestSumOfSlices cuts a product's inputs, one an input, into eight slices over 1, 2, 4 and 8 ranks. Every element is the
// balanced tree of eight products of two numbers, in the order of the slices. The rows are more than a Sum does at once.
func TestSumOfSlices(t *testing.T) {
	const slicesInAll, rows, most = 8, 5, sumBytes / 4 / 16
	rng := rand.New(rand.NewPCG(3, 4))
	x, w, old := random(rng, rows*slicesInAll), random(rng, most*slicesInAll), random(rng, rows*most)
	overWays(t, []int{1, 2, 4, 8}, func(t *testing.T, ranks int, way string) {
		cols := most
		if way == "peers" || way == "boards" && ranks != 4 { // elsewhere is seen what many bytes do
			cols = 33
		}
		x, w, old := x, w[:cols*slicesInAll], old[:rows*cols]
		house := windowtest.NewHouse()
		err := mpi.Run(ranks, func(world mpi.World) error {
			d, group, err := openWay(t, house, way, world)
			if err != nil {
				return err
			}
			defer d.Close()
			each := slicesInAll / ranks
			m, err := NewSum(d, group, each, rows, cols)
			if err != nil {
				return err
			}
			defer m.Free()
			if got := SumBytes(group, each, rows, cols); got < m.own.Bytes() || m.rows >= rows && each > 3 && cols == most {
				return fmt.Errorf("%d rows at once, %d bytes", m.rows, got)
			}
			s, err := d.NewStream()
			if err != nil {
				return err
			}
			first := world.Rank() * each
			xt, yt := tensorOf(d, s, rows, slicesInAll, x), tensorOf(d, s, rows, cols, old)
			var weights []kernels.Weights
			for i := range each {
				column := make([]float32, cols)
				for j := range column {
					column[j] = w[j*slicesInAll+first+i]
				}
				one, err := d.Pack("slice", kernels.WeightSpec{DType: kernels.F32, Experts: []kernels.Linear{{
					Parts: []kernels.Matrix{{DType: kernels.F32, Rows: cols, Cols: 1, Data: bytesOf(column)}}}}})
				if err != nil {
					return err
				}
				defer one.Free()
				weights = append(weights, one)
			}
			if err := m.Linear(t.Context(), s, yt, xt.ColRange(first, first+each), weights, true); err != nil {
				return err
			}
			got := make([]byte, yt.Bytes())
			s.Read(got, yt)
			if err := s.Sync(); err != nil {
				return err
			}
			for i, g := range floatsOf(got) {
				r, c := i/cols, i%cols
				var p [slicesInAll]float32
				for k := range p {
					p[k] = x[r*slicesInAll+k] * w[c*slicesInAll+k]
				}
				if want := old[i] + (((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]))); g != want {
					return fmt.Errorf("row %d, column %d: %v, want %v", r, c, g, want)
				}
			}
			if sent, most := m.Traffic().Sent, int64((ranks-1)*4*rows*cols); sent > most || sent < most && ranks <= 2 || ranks > 4 && cols > 33 && sent > most/2 {
				return fmt.Errorf("%d bytes sent", sent)
			}
			return s.Close()
		})
		if err != nil {
			t.Error(err)
		}
		if did := house.Ops(); (did > ranks) != (way == "boards" && ranks > 1) {
			t.Errorf("%d ops of boards", did)
		}
	})
}

// overWays runs a test for each number of ranks, whose slices go through the hosts, over boards, and among peers.
func overWays(t *testing.T, ranks []int, test func(t *testing.T, ranks int, way string)) {
	for _, n := range ranks {
		for _, way := range []string{"hosts", "boards", "peers"} {
			t.Run(fmt.Sprintf("%d ranks, %s", n, way), func(t *testing.T) { test(t, n, way) })
		}
	}
}

// openWay opens a rank's device and the group of all ranks.
func openWay(t *testing.T, house *windowtest.House, way string, world mpi.World) (kernels.Device, *Group, error) {
	c, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		return nil, nil, err
	}
	d, group := kernels.Device(c), &Group{World: world}
	for r := range world.Size() {
		group.Ranks = append(group.Ranks, r)
	}
	switch way {
	case "boards":
		d = house.NewDevice(c, fmt.Sprint("GPU ", world.Rank()), "")
	case "peers":
		d = &meeting{Device: c, group: world, hardware: fmt.Sprint("GPU ", world.Rank())}
	}
	why := ""
	if world.Size() > 1 {
		group.Team, why, err = OpenTeam(t.Context(), group, d, kernels.BoardSpec{Room: 1 << 20, DType: kernels.F32, Patience: time.Minute})
	}
	if err == nil && world.Size() > 1 && (why == "") != (way == "boards") {
		err = fmt.Errorf("%s, and no boards since %q", way, why)
	}
	return d, group, err
}

func tensorOf(d kernels.Device, s kernels.Stream, rows, cols int, x []float32) kernels.Tensor {
	t, err := d.Alloc("test", kernels.F32, rows, cols)
	if err != nil {
		panic(err) // mpi.Run tells it
	}
	s.Write(t, bytesOf(x))
	return t
}

// TestColumnsOfRanks gathers columns of unequal numbers, some held twice, and none of no rows.
func TestColumnsOfRanks(t *testing.T) {
	for ranks, c := range map[int]struct{ from, to []int }{
		2: {[]int{0, 4}, []int{4, 9}}, 3: {[]int{0, 2, 7}, []int{2, 7, 9}}, 4: {[]int{0, 3, 3, 4}, []int{3, 4, 4, 9}},
		8: {[]int{0, 0, 2, 3, 4, 5, 6, 8}, []int{2, 2, 3, 4, 5, 6, 8, 9}},
	} {
		overWays(t, []int{ranks}, func(t *testing.T, ranks int, way string) {
			house := windowtest.NewHouse()
			err := mpi.Run(ranks, func(world mpi.World) error {
				d, group, err := openWay(t, house, way, world)
				if err != nil {
					return err
				}
				defer d.Close()
				s, err := d.NewStream()
				if err != nil {
					return err
				}
				columns, sent, r := NewColumns(group, c.from, c.to), 0, world.Rank()
				for _, rows := range []int{0, 1, 6} {
					want := random(rand.New(rand.NewPCG(1, uint64(rows))), rows*9)
					all := tensorOf(d, s, rows, 9, want)
					whole := tensorOf(d, s, rows, 9, make([]float32, rows*9))
					part := all.ColRange(c.from[r], c.to[r])
					if err := columns.Gather(t.Context(), s, whole, part); err != nil {
						return err
					}
					got := make([]byte, whole.Bytes())
					s.Read(got, whole)
					if err := s.Sync(); err != nil {
						return err
					}
					if !slices.Equal(floatsOf(got), want) {
						return fmt.Errorf("%v, want %v", floatsOf(got), want)
					}
					if sent += (ranks - 1) * int(part.Bytes()); columns.Traffic().Sent != int64(sent) {
						return fmt.Errorf("%d bytes sent, want %d", columns.Traffic().Sent, sent)
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}
