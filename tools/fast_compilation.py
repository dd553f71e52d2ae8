"""XLA's flags for programs that run for milliseconds, of which compiling takes the time.

For the tests and the campaigns of `reliability`; what is timed is compiled as users do.
"""

from importlib import metadata

# The last two halve compilation once more; newer versions of XLA do not have both, and end
# at what they lack.
XLA_FLAGS = ' '.join(
  (
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    *(
      (
        '--xla_cpu_use_fusion_emitters=false',
        '--xla_cpu_parallel_codegen_split_count=1',
      )
      if metadata.version('jaxlib').startswith('0.10.')
      else ()
    ),
  )
)
