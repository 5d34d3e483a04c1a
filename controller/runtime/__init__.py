"""Parts of asyncio programs that know nothing of Kubernetes or Azure: queues, limiters, breakers, budgets."""
