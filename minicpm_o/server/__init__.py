"""OpenAI's API, live sessions and the page over one shared model (extra `serve`)."""
