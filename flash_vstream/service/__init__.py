"""The live service: streams as resources of an HTTP server that any OpenAI client can question."""
