# What CI runs, and what to run before a commit. PYTEST_WORKERS=0 runs the tests in one process.
export OMP_NUM_THREADS ?= 1
PYTEST_WORKERS ?= 2

.PHONY: check format lint types generated test fix generate tutorials

check: format lint types generated test

format:
	ruff format --check .

lint:
	ruff check .

types:
	mypy

generated: generate
	git diff --exit-code --stat -- schemas cards docs CONTRIBUTING.md

test:
	pytest -n $(PYTEST_WORKERS) --dist worksteal

fix:
	ruff check --fix .
	ruff format .

generate:
	python -m hub_client.manifest.schema
	python -m hub_client.release.card
	python -m hub_client.release.released_cards docs/released-cards.md
	python -m tests.rooms
	python -m typer hub_client.cli utils docs --name archzoo --title "The archzoo command" --output docs/command.md

# What tutorials print and draw, on the data they are about; minutes.
tutorials:
	python -m tests.tutorials docs/tutorials/interferon.md --data ../shared/data
