// Tables of integer forms, on every path of the CPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "cpu/isa.h"
#include "cpu/kernels/forms.h"

namespace torchqat::cpu::forms {
namespace {

struct Path {
  const char* name;
  Kernels kernels;
};

std::vector<Path> paths() {
  std::vector<Path> all{{"scalar", kernels_scalar()}};
  if (is_supported(Isa::avx2)) all.push_back({"avx2", kernels_avx2()});
  if (is_supported(Isa::avx512)) all.push_back({"avx512", kernels_avx512()});
  if (use_avx512_vbmi()) all.push_back({"avx512vbmi", kernels_avx512vbmi()});
  return all;
}

TEST(Forms, EveryCodeFindsItsEntryAndThoseBeyondTheGridItsEnds) {
  std::mt19937 random(5);
  for (const bool is_signed : {false, true}) {
    for (const bool narrow : {false, true}) {
      Lookup task;
      const int least = (is_signed ? -128 : 0) + (narrow ? 5 : 0), most = (is_signed ? 127 : 255) - (narrow ? 9 : 0);
      task.type = is_signed ? Element::s8 : Element::u8;
      task.grid = Grid{0.5f, static_cast<float>(least + 3), static_cast<float>(least), static_cast<float>(most)};
      std::vector<uint8_t> table(static_cast<size_t>(most - least + 1)), input(300);
      for (auto& entry : table) entry = static_cast<uint8_t>(random());
      for (size_t i = 0; i < input.size(); ++i) input[i] = static_cast<uint8_t>(i < 256 ? i : random());
      task.input = input.data();
      task.table = table.data();
      for (const Path& path : paths()) {
        for (const int64_t end : {1, 63, 64, 65, 255, 300}) {
          std::vector<uint8_t> out(input.size(), 0xa5);
          task.out = out.data();
          path.kernels.lookup(task, 0, end);
          for (size_t i = 0; i < out.size(); ++i) {
            const int code = is_signed ? static_cast<int8_t>(input[i]) : input[i];
            const uint8_t wanted = table[static_cast<size_t>(std::clamp(code, least, most) - least)];
            ASSERT_EQ(static_cast<int64_t>(i) < end ? wanted : 0xa5, out[i]) << path.name << " code " << code;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu::forms
