"""A model behind HTTP: chat completions in OpenAI's form, reports as JSON, and Hugging Face Inference Endpoints."""
