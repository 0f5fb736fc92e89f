# Thin names for ./kpu, which sets up .venv by itself on first use.
.PHONY: demo test trust clean

demo:
	./kpu run workloads/llama3-8b-layer.toml

test:
	./kpu test

# docs/trust.md: the calibration constants fitted anew, and everything held against its reference; half an hour.
trust:
	./kpu --version
	.venv/bin/python -m kpusim.validate.calibrate tests/data/h200_public.csv -o docs/calibration.json
	.venv/bin/python -m kpusim.validate.page

clean:
	rm -rf .venv build dist kpusim-out .hypothesis .mypy_cache .pytest_cache .ruff_cache
