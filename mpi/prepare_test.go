//go:build mpi

package mpi

import (
	"os"
	"testing"
)

// TestPrepareLeavesTheUsersChoice: messages of a host's ranks get shared memory where it has room, one rank alone takes none,
// and what the user has set stays.
func TestPrepareLeavesTheUsersChoice(t *testing.T) {
	const limit, segment = "OMPI_MCA_btl_vader_eager_limit", "OMPI_MCA_btl_vader_segment_size"
	names := []string{limit, segment, "OMPI_MCA_btl_sm_eager_limit", "OMPI_MCA_btl_sm_segment_size", "OMPI_MCA_mpi_yield_when_idle", "UCX_ERROR_SIGNALS"}
	for _, name := range names {
		t.Setenv(name, "") // which brings it back at the end
	}
	for _, c := range []struct {
		ranks, users, limit string
		room, segment       bool
	}{
		{"1", "", "", true, false},
		{"2", "", "132096", true, true},
		{"2", "4096", "4096", true, true},
		{"2", "", "", false, false},
	} {
		for _, name := range names {
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("OMPI_COMM_WORLD_LOCAL_SIZE", c.ranks)
		if c.users != "" {
			t.Setenv(limit, c.users)
		}
		if err := prepare(func(int) bool { return c.room }); err != nil {
			t.Fatal(err)
		}
		if _, set := os.LookupEnv(segment); os.Getenv(limit) != c.limit || set != c.segment {
			t.Errorf("%s ranks, user's limit %q, room: %t: limit %q, segment set: %t", c.ranks, c.users, c.room, os.Getenv(limit), set)
		}
	}
	if roomy(1 << 30) {
		t.Error("there is room for the segments of a thousand million ranks")
	}
}
