import asyncio

import uvicorn
from shop import app

import endless_py

config = uvicorn.Config(app, loop="asyncio", log_level="warning")
asyncio.run(endless_py.serve_uvicorn(config, ("127.0.0.1", 8000), drain_timeout=30))
