# The installed tree (inside the Python package, or any prefix): lib/, include/, share/cmake/torchqat/.
include(CMakePackageConfigHelpers)
set(TORCHQAT_CMAKE_DIR share/cmake/torchqat)
install(TARGETS torchqat EXPORT torchqatTargets LIBRARY DESTINATION lib)
install(FILES ${TORCHQAT_PUBLIC_HEADERS} DESTINATION include/torchqat)
install(EXPORT torchqatTargets NAMESPACE torchqat:: DESTINATION ${TORCHQAT_CMAKE_DIR} FILE torchqatTargets.cmake)
configure_package_config_file(${CMAKE_CURRENT_SOURCE_DIR}/cmake/torchqatConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/torchqatConfig.cmake INSTALL_DESTINATION ${TORCHQAT_CMAKE_DIR})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/torchqatConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/torchqatConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/torchqatConfigVersion.cmake
  DESTINATION ${TORCHQAT_CMAKE_DIR})
