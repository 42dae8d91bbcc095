//go:build !cgo

package cuda

import "fmt"

// A build without cgo has no way to the driver: New says so, and nothing below is reached.

var errNoCgo = fmt.Errorf("%w: this dsbatch was built with CGO_ENABLED=0; build it with cgo to use a GPU", ErrDriver)

func openDriver() error                                { return errNoCgo }
func openCompiler([]string) error                      { return errNoCgo }
func driverVersion() (int, error)                      { return 0, errNoCgo }
func deviceCount() (int, error)                        { return 0, errNoCgo }
func describeDevice(int) (card, error)                 { return card{}, errNoCgo }
func deviceUUID(int) ([]byte, error)                   { return nil, errNoCgo }
func reaches(_, _ int) (bool, error)                   { return false, errNoCgo }
func retainContext(int) (handle, error)                { return 0, errNoCgo }
func releaseContext(int) error                         { return errNoCgo }
func memoryInfo(handle) (free, total int64, err error) { return 0, 0, errNoCgo }
func memAlloc(handle, int64) (handle, error)           { return 0, errNoCgo }
func memFree(_, _ handle) error                        { return errNoCgo }
func hostAlloc(handle, int64) ([]byte, handle, error)  { return nil, 0, errNoCgo }
func hostFree(handle, []byte) error                    { return errNoCgo }
func hostRegister(handle, []byte) error                { return errNoCgo }
func hostUnregister(handle, []byte) error              { return errNoCgo }
func ipcHandle(_, _ handle) ([]byte, error)            { return nil, errNoCgo }
func ipcOpen(handle, []byte) (handle, error)           { return 0, errNoCgo }
func ipcClose(_, _ handle) error                       { return errNoCgo }
func peerAccess(_, _ handle) error                     { return errNoCgo }
func zero(_, _ handle, _ int64) error                  { return errNoCgo }
func streamNew(handle) (handle, error)                 { return 0, errNoCgo }
func streamFree(_, _ handle) error                     { return errNoCgo }
func streamWait(_, _ handle) error                     { return errNoCgo }
func moduleLoad(handle, []byte) (handle, error)        { return 0, errNoCgo }
func moduleFree(_, _ handle) error                     { return errNoCgo }
func eventNew(handle) (handle, error)                  { return 0, errNoCgo }
func eventFree(_, _ handle) error                      { return errNoCgo }
func eventRecord(_, _, _ handle) error                 { return errNoCgo }
func eventWait(_, _, _ handle) error                   { return errNoCgo }
func eventElapsed(_, _, _ handle) (float64, error)     { return 0, errNoCgo }
func runGraph(_, _, _ handle) error                    { return errNoCgo }
func graphFree(_, _ handle) error                      { return errNoCgo }
func compilerVersion() (major, minor int)              { return 0, 0 }

func moduleFunction(_, _ handle, _ string, _ int) (handle, error)   { return 0, errNoCgo }
func runQueue(_, _ handle, _ []byte) (op uint32, err error)         { return 0, errNoCgo }
func newGraph(_, _ handle, _ []byte) (g handle, op uint32, e error) { return 0, 0, errNoCgo }

func compileProgram(string, string, map[string]string, []string) ([]byte, string, error) {
	return nil, "", errNoCgo
}

func openNCCL([]string) error                                                  { return errNoCgo }
func ncclVersion() int                                                         { return 0 }
func ncclKey() ([]byte, error)                                                 { return nil, errNoCgo }
func ncclJoin(handle, []byte, int, int) (handle, error)                        { return 0, errNoCgo }
func ncclExchange(_, _, _, _ handle, _ []uint64, _ handle, _ []uint64) error   { return errNoCgo }
func ncclGather(_, _, _ handle, _ int, _ []handle, _ []uint64, _ handle) error { return errNoCgo }
func ncclLeave(_, _ handle) error                                              { return errNoCgo }
func ncclAbort(_, _ handle) error                                              { return errNoCgo }

func boxesOf(handle, handle, int, int, int, int) (m [16]uint64, err error) { return m, errNoCgo }

func openBLAS([]string) error {
	return fmt.Errorf("%w: this dsbatch was built with CGO_ENABLED=0; build it with cgo", ErrBLAS)
}
func blasVersion() int                                                        { return 0 }
func blasCreate(handle) (handle, error)                                       { return 0, errNoCgo }
func blasChoose(handle, *productRecord, bool, int) (all []algorithm, e error) { return nil, errNoCgo }
func blasCheck(handle, *productRecord) error                                  { return errNoCgo }
