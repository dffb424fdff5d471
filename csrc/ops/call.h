// Looking an op up once, for C++ entry points that go through the dispatcher.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat {

template <typename Signature>
auto find_op(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

}  // namespace torchqat
