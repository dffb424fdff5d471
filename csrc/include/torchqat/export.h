// TORCHQAT_API marks what libtorchqat.so exports; everything else is hidden.
#pragma once
#define TORCHQAT_API __attribute__((visibility("default")))
