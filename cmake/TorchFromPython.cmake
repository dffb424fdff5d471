# Finds the torch that the given Python interpreter imports and makes it the interface target torchqat_torch.
# TorchConfig.cmake is not used: for CUDA builds of torch it demands a CUDA toolkit even where none is needed.
if(NOT Python_EXECUTABLE)
  find_package(Python COMPONENTS Interpreter REQUIRED)
endif()

if(NOT TORCHQAT_TORCH_INFO)
  # -I: a build front end may have put an isolated environment on PYTHONPATH; torch lives in the interpreter's own.
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env --unset=PYTHONPATH ${Python_EXECUTABLE} -I -c
      "import os, torch; r = os.path.dirname(torch.__file__); print(';'.join([torch.__version__, r, str(torch.version.cuda or ''), str(int(torch._C._GLIBCXX_USE_CXX11_ABI))]))"
    OUTPUT_VARIABLE TORCHQAT_TORCH_INFO OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_VARIABLE torch_error RESULT_VARIABLE torch_result)
  if(NOT torch_result EQUAL 0)
    message(FATAL_ERROR "torchqat: torch >= 2.11 must be installed in ${Python_EXECUTABLE} before torchqat is built; "
      "importing it failed:\n${torch_error}\nInstall it first, for example: pip install torch")
  endif()
endif()
list(GET TORCHQAT_TORCH_INFO 0 TORCHQAT_TORCH_VERSION)
list(GET TORCHQAT_TORCH_INFO 1 TORCHQAT_TORCH_ROOT)
list(GET TORCHQAT_TORCH_INFO 2 TORCHQAT_TORCH_CUDA)
list(GET TORCHQAT_TORCH_INFO 3 TORCHQAT_TORCH_CXX11_ABI)
if(TORCHQAT_TORCH_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "torchqat: torch >= 2.11 is required, got ${TORCHQAT_TORCH_VERSION} in ${Python_EXECUTABLE}")
endif()
message(STATUS "torch ${TORCHQAT_TORCH_VERSION} (CUDA '${TORCHQAT_TORCH_CUDA}') in ${TORCHQAT_TORCH_ROOT}")

add_library(torchqat_torch INTERFACE)
target_include_directories(torchqat_torch SYSTEM INTERFACE
  ${TORCHQAT_TORCH_ROOT}/include ${TORCHQAT_TORCH_ROOT}/include/torch/csrc/api/include)
target_compile_definitions(torchqat_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=${TORCHQAT_TORCH_CXX11_ABI})
foreach(lib torch torch_cpu c10)
  find_library(TORCHQAT_LIB_${lib} ${lib} PATHS ${TORCHQAT_TORCH_ROOT}/lib NO_DEFAULT_PATH REQUIRED)
  target_link_libraries(torchqat_torch INTERFACE ${TORCHQAT_LIB_${lib}})
endforeach()
