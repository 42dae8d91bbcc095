//go:build mpi

package main

const linkedWithMPI = true
