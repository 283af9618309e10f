"""What a run trains and is evaluated on: data sources, file readers, prompts, and the task that is made of them."""
