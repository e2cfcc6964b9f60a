# Mutation tests: linear_mma.cuh, broken on purpose (mutate.py), must be found out. Each mutant is compiled with one
# small problem (linear_mma.cpp) and run in both modes of the emulator, where it must come to the end recorded here.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(LRK_MUTANTS ${CMAKE_CURRENT_LIST_DIR})

function(lrk_add_mutant name unchecked_end checked_end)
  set(header cuda/lowrank/linear_mma.cuh)
  set(source ${CMAKE_SOURCE_DIR}/csrc/${header})
  set(folder ${CMAKE_BINARY_DIR}/mutants/${name})
  add_custom_command(OUTPUT ${folder}/${header} VERBATIM
    COMMAND ${Python3_EXECUTABLE} ${LRK_MUTANTS}/mutate.py ${name} ${source} ${folder}/${header}
    DEPENDS ${LRK_MUTANTS}/mutate.py ${source})
  foreach(mode unchecked checked)
    set(target mutant_${name}_${mode})
    add_executable(${target} ${LRK_MUTANTS}/linear_mma.cpp ${folder}/${header} ${LRK_EMULATOR_OBJECTS_${mode}})
    target_include_directories(${target} BEFORE PRIVATE ${folder})
    target_link_libraries(${target} PRIVATE lrk_${mode}_kernels lrk_options Threads::Threads)
    target_compile_options(${target} PRIVATE -O1)
    add_test(NAME ${target} COMMAND ${target} ${${mode}_end})
  endforeach()
endfunction()

# The checked reports name both parties' lines. (No semicolons: CMake splits at them.)
lrk_add_mutant(none right right)
lrk_add_mutant(dropped_wait wrong "linear_mma.cuh:[0-9]+: reads shared bytes .* while a cp.async into them is in \
flight: a wait is missing. issued by thread [0-9]+ at .*tile.cuh:[0-9]+ < .*linear_mma.cuh:[0-9]+")
lrk_add_mutant(swapped_index wrong wrong)
# The numbers depend on the order in which threads run: right in the emulator's present one.
lrk_add_mutant(missing_barrier "no report" "linear_mma.cuh:[0-9]+: a data race: writes shared bytes .* reads, with \
nothing that orders the two. read at .*tile_product.cuh:[0-9]+ < .*linear_mma.cuh:[0-9]+")
