# `cmake --install` puts headers, library and CMake package where find_package(lrk) of another project finds them. The
# emulated kernels stay here: install from a build without LRK_EMULATOR if lowrank_cuda_emulated() shall link.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(LRK_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/lrk)
set(LRK_CUDA_TOOLKIT_ROOT "")
if(LRK_HAVE_CUDA)
  get_filename_component(LRK_CUDA_TOOLKIT_ROOT "${CUDAToolkit_BIN_DIR}" DIRECTORY)
endif()

install(DIRECTORY csrc/include/lrk DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS lrk_kernels EXPORT lrk ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT lrk NAMESPACE lrk:: FILE lrkTargets.cmake DESTINATION ${LRK_PACKAGE_DIR})
configure_package_config_file(cmake/lrkConfig.cmake.in lrkConfig.cmake INSTALL_DESTINATION ${LRK_PACKAGE_DIR})
write_basic_package_version_file(lrkConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/lrkConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/lrkConfigVersion.cmake
  DESTINATION ${LRK_PACKAGE_DIR})

# The example as another project would build it: against what was installed, from a prefix of its own.
if(LRK_TESTS AND NOT LRK_SANITIZE)
  set(LRK_EXAMPLE_DIR ${CMAKE_CURRENT_BINARY_DIR}/examples)
  add_test(NAME install COMMAND ${CMAKE_COMMAND} --install ${CMAKE_CURRENT_BINARY_DIR} --config $<CONFIG>
    --prefix ${LRK_EXAMPLE_DIR}/prefix)
  add_test(NAME example_cpp COMMAND ${CMAKE_CTEST_COMMAND}
    --build-and-test ${CMAKE_CURRENT_SOURCE_DIR}/examples/cpp ${LRK_EXAMPLE_DIR}/cpp
    --build-generator ${CMAKE_GENERATOR} --build-makeprogram ${CMAKE_MAKE_PROGRAM}
    --build-options -DCMAKE_PREFIX_PATH=${LRK_EXAMPLE_DIR}/prefix -DCMAKE_BUILD_TYPE=$<CONFIG>
      -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER} -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF
    --test-command ${LRK_EXAMPLE_DIR}/cpp/lora_forward 67 300 129 5)
  set_tests_properties(install PROPERTIES FIXTURES_SETUP installed)
  set_tests_properties(example_cpp PROPERTIES FIXTURES_REQUIRED installed)
endif()
