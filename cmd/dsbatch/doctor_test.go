package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestDoctor asks what this machine offers; what it says of MPI is tried out.
func TestDoctor(t *testing.T) {
	e := dsbatch(t, "doctor").want(t, done)
	for _, word := range []string{"cpu ", "cores", "kernels for reference", "gpu ", "mpi ", "slurm "} {
		if !strings.Contains(e.stdout, word) {
			t.Errorf("doctor does not speak of %q:\n%s", word, e.stdout)
		}
	}
	if withMPI == "" && !strings.Contains(e.stdout, "see each other") {
		t.Errorf("MPI works here, and doctor does not find that:\n%s", e.stdout)
	}
	dsbatch(t, "doctor", "one", "two").want(t, badUsage)
	dsbatch(t, "doctor", filepath.Join(t.TempDir(), "none")).want(t, noInput)
}

// TestDoctorUnderMPI: started by a launcher, it tells whether the ranks see each other, once.
func TestDoctorUnderMPI(t *testing.T) {
	needMPI(t)
	e := mpirun(t, 3, "doctor").want(t, done)
	if strings.Count(e.stdout, "mpirun: 3 ranks on host ") != 1 {
		t.Errorf("%s%s", e.stdout, e.stderr)
	}
}

// TestDoctorFindsWhatIsWrong puts broken launchers into the way: each is told apart, with what mends it.
func TestDoctorFindsWhatIsWrong(t *testing.T) {
	const openMPI = `if [ "$1" = --version ]; then echo "mpirun (Open MPI) 4.1.4"; exit; fi` + "\n"
	for name, c := range map[string]struct{ mpirun, say string }{
		"none":                   {"", "no mpirun; on Debian: apt-get install openmpi-bin"},
		"broken":                 {"echo 'cannot open libopen-rte.so.40' >&2; exit 127\n", "does not run (cannot open libopen-rte.so.40)"},
		"of another library":     {"echo 'HYDRA build details:'; exit\n", "is another library's (HYDRA build details:)"},
		"as root":                {openMPI + "echo 'mpirun has detected an attempt to run as root.'; exit 1\n", "export OMPI_ALLOW_RUN_AS_ROOT=1"},
		"of another major":       {openMPI + "echo 'launcher  mpirun: 1 ranks'; echo 'launcher  mpirun: 1 ranks'\n", "do not see each other"},
		"that cannot start them": {openMPI + "echo '-----'; echo 'There are not enough slots'; exit 1\n", "(There are not enough slots)"},
	} {
		t.Run(name, func(t *testing.T) {
			if withMPI != "" && strings.HasPrefix(c.mpirun, openMPI) {
				t.Skip(withMPI)
			}
			folder := t.TempDir()
			for program, text := range map[string]string{"mpirun": c.mpirun, "sbatch": "echo 'slurm 99.1'\n"} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(folder, program), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", folder)
			e := dsbatch(t, "doctor").want(t, done)
			if !strings.Contains(e.stdout, c.say) || !strings.Contains(e.stdout, "slurm     slurm 99.1") {
				t.Errorf("want %q in\n%s", c.say, e.stdout)
			}
		})
	}
	t.Run("the program with MPI", func(t *testing.T) {
		needMPI(t)
		copied, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		alone := filepath.Join(t.TempDir(), "dsbatch")
		if err := os.WriteFile(alone, copied, 0o755); err != nil {
			t.Fatal(err)
		}
		doctor := func() string {
			_, wait := start(t, alone, "doctor")
			return wait().want(t, done).stdout
		}
		if said := doctor(); !strings.Contains(said, "dsbatch-mpi is not there") || !strings.Contains(said, "make build") {
			t.Errorf("without dsbatch-mpi:\n%s", said)
		}
		broken := "#!/bin/sh\necho 'error while loading shared libraries: libmpi.so.12' >&2; exit 127\n"
		if err := os.WriteFile(alone+"-mpi", []byte(broken), 0o755); err != nil {
			t.Fatal(err)
		}
		if said := doctor(); !strings.Contains(said, "libmpi.so.12") || !strings.Contains(said, "another major version") {
			t.Errorf("with one made for another library:\n%s", said)
		}
	})
}

// TestDoctorOfAJob asks about a job that runs, sleeps and is killed.
func TestDoctorOfAJob(t *testing.T) {
	output := filepath.Join(t.TempDir(), "out")
	c, wait := start(t, program, job(output, "--max-new-tokens", "400", "--limit", "1000", "--max-seqs", "1", "--chunk-rows", "1")...)
	waitForCommit(t, output)
	for _, step := range []struct {
		signal syscall.Signal
		say    []string
	}{
		{syscall.SIGCONT, []string{"of 512 rows are committed", "start number 1 runs", "rank 0 (", "in phase ", "its process runs", "next: wait for it"}},
		{syscall.SIGSTOP, []string{"was put to sleep", "its process is stopped", "kill -CONT"}},
		{syscall.SIGKILL, []string{"has ended", "its process is gone, without a word", "dmesg", "start the same command again"}},
	} {
		if err := c.Process.Signal(step.signal); err != nil {
			t.Fatal(err)
		}
		if step.signal == syscall.SIGKILL {
			wait()
		}
		e := dsbatch(t, "doctor", output).want(t, done)
		for _, word := range step.say {
			if !strings.Contains(e.stdout, word) {
				t.Errorf("after %v: it does not say %q:\n%s", step.signal, word, e.stdout)
			}
		}
	}
}
