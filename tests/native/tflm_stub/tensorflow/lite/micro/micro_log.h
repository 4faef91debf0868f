#pragma once
#include <cstdio>
#define MicroPrintf(...) (std::fprintf(stderr, __VA_ARGS__), std::fprintf(stderr, "\n"))
