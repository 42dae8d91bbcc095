package mpi

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// Starts tells whether a program that is linked with an MPI library can load it, by running it with the argument version.
// The error names what is missing, and what is there of another version.
func Starts(program string) error {
	c := exec.Command(program, "version")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a signal to this job's processes is not for it, and would look like its failure
	out, err := c.CombinedOutput()
	if err == nil {
		return nil
	}
	said, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if said == "" {
		said = err.Error()
	}
	return missing(program, said, librariesIn(libraryFolders(os.Getenv("LD_LIBRARY_PATH"))))
}

var sharedObject = regexp.MustCompile(`libmpi\.so\.\d+`)

// missing explains what the dynamic loader says, given the MPI libraries that are there.
func missing(program, said string, there []string) error {
	needs := sharedObject.FindString(said)
	switch {
	case needs == "" || slices.Contains(there, needs):
		return fmt.Errorf("%s does not start: %s", program, said)
	case len(there) == 0:
		return fmt.Errorf("%s does not start: it is linked with %s, and this machine has no MPI library", program, needs)
	}
	return fmt.Errorf("%s does not start: it is linked with %s, and this machine has %s, an MPI library of another make or major version",
		program, needs, strings.Join(there, ", "))
}

// libraryFolders are where the dynamic loader looks on the usual systems.
func libraryFolders(path string) []string {
	return append(filepath.SplitList(path), "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/lib/*-linux-gnu", "/usr/lib64/openmpi/lib", "/usr/lib64/mpich/lib")
}

func librariesIn(folders []string) (names []string) {
	for _, folder := range folders {
		found, _ := filepath.Glob(filepath.Join(folder, "libmpi.so.*")) // a broken pattern finds nothing
		for _, f := range found {
			if name := sharedObject.FindString(filepath.Base(f)); name != "" {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var makeAndMajor = regexp.MustCompile(`^([A-Za-z(][A-Za-z() ]*?)(?: Version| Library)?[ :\tv]*(\d+)`)

// sameMajor refuses a library of another make or major version than the one that this program was built with: what they
// call by one name may differ. Both are as MPI_Get_library_version tells, "Open MPI v4.1.4, package…"; of what can't be
// read nothing is known.
func sameMajor(built, found string) error {
	b, f := makeAndMajor.FindStringSubmatch(built), makeAndMajor.FindStringSubmatch(found)
	if b == nil || f == nil || b[1] == f[1] && b[2] == f[2] {
		return nil
	}
	return errors.New("this program was built with " + b[1] + " " + b[2] + " and has loaded " + f[1] + " " + f[2] +
		"; build it on this machine (make build), or load the module of the one that it was built with")
}
