// Which of a test's kernel paths this CPU has.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

#include "cpu/isa.h"

namespace torchqat::cpu {

// Those whose `name` is that of a supported level.
template <typename Path>
std::vector<Path> supported_paths(std::initializer_list<Path> all) {
  const std::vector<std::string> names = supported_isa_names();
  std::vector<Path> found;
  for (const Path& path : all) {
    if (std::find(names.begin(), names.end(), path.name) != names.end()) found.push_back(path);
  }
  return found;
}

}  // namespace torchqat::cpu
