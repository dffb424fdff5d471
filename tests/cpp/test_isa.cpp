// The choice of kernel path.
#include <gtest/gtest.h>

#include "cpu/isa.h"

namespace torchqat::cpu {

TEST(Isa, EverySupportedLevelCanBeChosenAndScalarAlwaysCan) {
  const Isa before = current_isa();
  for (const auto& name : supported_isa_names()) {
    set_isa(name);
    EXPECT_EQ(name, isa_name(current_isa()));
  }
  EXPECT_EQ("scalar", supported_isa_names().front());
  set_isa(isa_name(before));
}

TEST(Isa, AnUnknownNameIsRefusedAndChangesNothing) {
  const Isa before = current_isa();
  EXPECT_THROW(set_isa("sse9"), std::invalid_argument);
  EXPECT_EQ(before, current_isa());
}

TEST(Isa, AMissingEntryFallsToTheNextLowerOne) {
  int (*scalar)() = [] { return 0; };
  int (*none)() = nullptr;
  EXPECT_EQ(0, select(scalar, none)());
}

// AVX-512 does not imply AVX-VNNI: a level above it must not fall to its entry.
TEST(Isa, OnlyItsOwnLevelTakesTheEntryOfAvxVnni) {
  const Isa before = current_isa();
  int (*two)() = [] { return 2; };
  int (*vnni)() = [] { return 3; };
  int (*none)() = nullptr;
  for (const auto& name : supported_isa_names()) {
    if (name == "scalar") continue;
    set_isa(name);
    EXPECT_EQ(name == "avxvnni" ? 3 : 2, select(none, two, vnni, none, none)()) << name;
  }
  set_isa(isa_name(before));
}

}  // namespace torchqat::cpu
