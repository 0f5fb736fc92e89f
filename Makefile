# Thin names for ./kpu, which sets up .venv by itself on first use.
.PHONY: demo test clean

demo:
	./kpu run workloads/llama3-8b-layer.toml

test:
	./kpu test

clean:
	rm -rf .venv build dist kpusim-out .hypothesis .mypy_cache .pytest_cache .ruff_cache
