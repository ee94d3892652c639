"""The API-gateway demo: a policy, its limiter and its middleware."""
