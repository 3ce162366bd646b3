"""Stands in for vLLM in tests: the same program name, arguments and answers, and no model behind them."""

__version__ = "0.15.1"
