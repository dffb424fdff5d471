// torchqat's C++ interface: every op as a function, with autograd, without Python.
// Linking the CMake target torchqat::torchqat registers the ops; nothing need be called.
#pragma once
#include <ATen/core/Tensor.h>
