// Where rows of a matrix stand among the packed ones.
#pragma once

// The place of a part's row among those of all parts, which follow row0 others; where gated, rows stand in tiles of SIZE, half of
// them gate's (row0 is 0), half of them up's (1).
template <int SIZE> int packed_row(int row, int gated, int row0) {
    return gated ? row / (SIZE / 2) * SIZE + row0 * (SIZE / 2) + row % (SIZE / 2) : row0 + row;
}
