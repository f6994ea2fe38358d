"""Fine-tuning SmolLM3, as a plain library: no Prefect here, and torch only where a model is touched."""

import logging

__version__ = "0.1.0"

# bitsandbytes says at its import that it found no kernels for the CPU, whoever imports it and whatever for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
