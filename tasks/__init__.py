"""One thin Prefect task a step of the pipeline. What a step does is in `smollm3_ft`."""
