# CUDA on, off or auto; and torchqat_cuda_check, which compiles the CUDA sources as objects where torch is a CPU build.
set(TORCHQAT_CUDA_ARCHITECTURES "75;80;86;89;90;100;120" CACHE STRING "Architectures of a real CUDA build")
set(TORCHQAT_CUDA_CHECK_ARCHITECTURES "80;90" CACHE STRING "Architectures of the compile-only check")

function(torchqat_enable_cuda)
  find_program(TORCHQAT_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin)
  if(TORCHQAT_NVCC)
    set(CMAKE_CUDA_COMPILER ${TORCHQAT_NVCC} CACHE FILEPATH "" FORCE)
  endif()
endfunction()

function(torchqat_cuda_options target)
  set_target_properties(${target} PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF)
  # IEEE division and no contraction: the CPU's bits.
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false --prec-div=true --prec-sqrt=true --ftz=false --expt-relaxed-constexpr
      --expt-extended-lambda>)
endfunction()

# CMake 3.25 does not know that nvcc 13 has C++20.
macro(torchqat_enable_cuda_language)
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
endmacro()

# Kernels are .cu files without torch; what takes tensors is .cpp, for the host compiler.
function(torchqat_cuda_objects prefix)
  add_library(${prefix}_kernels OBJECT ${TORCHQAT_CUDA_KERNEL_SOURCES})
  target_include_directories(${prefix}_kernels PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
  torchqat_cuda_options(${prefix}_kernels)
  add_library(${prefix}_tensors OBJECT ${TORCHQAT_CUDA_TORCH_SOURCES})
  target_include_directories(${prefix}_tensors PRIVATE ${PROJECT_SOURCE_DIR}/csrc ${PROJECT_SOURCE_DIR}/csrc/include)
  target_include_directories(${prefix}_tensors SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_link_libraries(${prefix}_tensors PRIVATE torchqat_torch)
  target_precompile_headers(${prefix}_tensors PRIVATE ${PROJECT_SOURCE_DIR}/csrc/ops/torch_headers.h)
  torchqat_compile_options(${prefix}_tensors)
endfunction()

macro(torchqat_add_cuda target)
  torchqat_enable_cuda()
  string(TOLOWER "${TORCHQAT_CUDA}" torchqat_cuda_mode)
  if(torchqat_cuda_mode STREQUAL "on" AND (NOT TORCHQAT_NVCC OR NOT TORCHQAT_TORCH_CUDA))
    message(FATAL_ERROR "torchqat: TORCHQAT_CUDA=on needs nvcc (found: '${TORCHQAT_NVCC}') and a torch built with CUDA "
      "(torch ${TORCHQAT_TORCH_VERSION} was built with CUDA '${TORCHQAT_TORCH_CUDA}')")
  endif()
  set(TORCHQAT_WITH_CUDA OFF)
  if(NOT torchqat_cuda_mode STREQUAL "off" AND TORCHQAT_NVCC AND TORCHQAT_TORCH_CUDA)
    set(CMAKE_CUDA_ARCHITECTURES ${TORCHQAT_CUDA_ARCHITECTURES})
    torchqat_enable_cuda_language()
    set(TORCHQAT_WITH_CUDA ON)
    # The target is older than the language, so it has not taken the variable.
    set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES "${TORCHQAT_CUDA_ARCHITECTURES}")
    torchqat_cuda_objects(torchqat_cuda)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:torchqat_cuda_kernels> $<TARGET_OBJECTS:torchqat_cuda_tensors>)
    foreach(lib torch_cuda c10_cuda)
      find_library(TORCHQAT_LIB_${lib} ${lib} PATHS ${TORCHQAT_TORCH_ROOT}/lib NO_DEFAULT_PATH REQUIRED)
      target_link_libraries(${target} PRIVATE ${TORCHQAT_LIB_${lib}})
    endforeach()
    find_package(CUDAToolkit REQUIRED)
    target_link_libraries(${target} PRIVATE CUDA::cudart)
  elseif(TORCHQAT_CUDA_CHECK AND TORCHQAT_NVCC)
    set(CMAKE_CUDA_ARCHITECTURES ${TORCHQAT_CUDA_CHECK_ARCHITECTURES})
    torchqat_enable_cuda_language()
    torchqat_cuda_objects(torchqat_cuda_check)
    # A CPU torch has every CUDA header but this generated one; the check needs only its presence.
    file(WRITE ${CMAKE_BINARY_DIR}/cuda_stand_in/c10/cuda/impl/cuda_cmake_macros.h
      "#pragma once\n#define C10_CUDA_BUILD_SHARED_LIBS\n")
    target_include_directories(torchqat_cuda_check_tensors SYSTEM PRIVATE ${CMAKE_BINARY_DIR}/cuda_stand_in)
    add_custom_target(torchqat_cuda_check DEPENDS torchqat_cuda_check_kernels torchqat_cuda_check_tensors)
  endif()
  message(STATUS "CUDA kernels: ${TORCHQAT_WITH_CUDA} (nvcc: ${TORCHQAT_NVCC})")
endmacro()
