"""Servers of asyncio's, whatever made them: counted, drained, reloaded, in several processes."""
