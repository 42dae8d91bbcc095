// Package dsbatch is the root of the module; the program is cmd/dsbatch, and docs/structure.md shows the house.
package dsbatch
