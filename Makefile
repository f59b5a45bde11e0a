# `make` alone lists the targets. Values are read as given, so paths may hold spaces:
#   make features DATA="my clips"
# Variables come from the command line only, never from the environment.
DATA =
CACHE = features
RUN =
CLIP =
JOBS =
DASK =
STORE =
PART =
SEEDS =
WEIGHTS =
ARGS =
SPLIT = test
DEMO_CLIPS = 128
PYTHON = python3
LOCK = constraints.txt
TORCH_INDEX =
export DATA CACHE RUN CLIP SPLIT PYTHON LOCK TORCH_INDEX WEIGHTS DASK STORE PART

PY := .venv/bin/python
READY := .venv/.installed
jobs = $(if $(JOBS),--jobs $(JOBS))
weights = $(if $(WEIGHTS),--weights "$$WEIGHTS")
where = $(if $(DASK),--dask "$$DASK") $(if $(STORE),--store "$$STORE") $(if $(PART),--part "$$PART")
seeds = $(if $(SEEDS),--seeds $(SEEDS))
BEST := best_model_with_attention.pth
# The run that RUN names, else the one whose model was written last; of a folder of seeds, the first.
pick_run = run="$$RUN"; \
	test -n "$$run" || run=$$(ls -1t runs/*/$(BEST) runs/*/seed-*/$(BEST) runs/*/both/$(BEST) runs/*/both/seed-*/$(BEST) 2>/dev/null | head -n 1 | sed 's|/[^/]*$$||'); \
	test -n "$$run" || { echo "No run found under runs/. Train first: make train CACHE=..., or name one: RUN=..."; exit 2; }; \
	for seed in "$$run"/seed-*; do test -f "$$run/$(BEST)" || test ! -f "$$seed/$(BEST)" || run="$$seed"; done

# Composes the two stages, which do not import each other: the clip's features go to a temporary
# cache made with the run's own settings. A name that begins with "-" is no option.
predict_clip = case "$$clip" in -*) clip="./$$clip";; esac; \
	scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	$(PY) -m extract clip "$$clip" --cache "$$scratch/cache" --like "$$run/features.json"; \
	$(PY) -m train predict --run "$$run" --cache "$$scratch/cache"

.DEFAULT_GOAL := help
.PHONY: help setup demo features train evaluate predict test lint check bench clean

help: ## list the targets and their variables
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: DATA CACHE RUN CLIP SPLIT JOBS DASK STORE PART SEEDS WEIGHTS ARGS DEMO_CLIPS PYTHON LOCK TORCH_INDEX"

setup: $(READY) ## make .venv and install the tested versions; the other targets do it when needed
	@echo "Ready: .venv"

$(READY): requirements.txt pyproject.toml constraints.txt
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed and '$$PYTHON' is not that. Name one: make setup PYTHON=python3.11"; exit 2; }
	@test -x $(PY) || "$$PYTHON" -m venv .venv
	@test -z "$$TORCH_INDEX" || $(PY) -m pip install --no-deps --index-url "$$TORCH_INDEX" \
		$(if $(LOCK),-c "$$LOCK") torch torchvision
	@$(PY) -m pip install --disable-pip-version-check $(if $(LOCK),-c "$$LOCK") -e '.[dev]'
	@touch $@

demo: $(READY) ## all of it on a synthetic set, in minutes: synthesize, extract, train, score, draw
	@$(PY) -m extract.demo demo/data --clips $(DEMO_CLIPS) $(jobs)
	@weights="$$WEIGHTS"; \
	hub="$${TORCH_HOME:-$${XDG_CACHE_HOME:-$$HOME/.cache}/torch}/hub/checkpoints"; \
	if test -z "$$weights" && ls "$$hub"/mobilenet_v3_small-*.pth >/dev/null 2>&1; then weights=imagenet; fi; \
	if test -z "$$weights"; then weights=random:0; \
		echo "No ImageNet weights on this disk: the demo uses random ones. WEIGHTS=imagenet fetches them."; fi; \
	$(PY) -m extract --data demo/data --cache demo/cache --weights "$$weights" --max-failures 1 $(jobs)
	@rm -rf demo/run
	@$(PY) -m train fit --cache demo/cache --run demo/run $(seeds) $(ARGS)
	@set -e; RUN=demo/run; $(pick_run); \
	for id in $$(cut -d '&' -f 2 demo/data/testSet.txt); do \
		clip="demo/data/AVE_Dataset/AVE/$$id.mp4"; test ! -f "$$clip" || break; done; \
	$(predict_clip)
	@$(PY) -m train evaluate --cache demo/cache --run demo/run --split test
	@echo "all pictures: demo/run/attention_visualization/, the predicted clip's: demo/run/predictions/"

features: $(READY) ## DATA=folder → CACHE (default features/): extract what is not done yet (DASK= PART= STORE=: docs/scaling.md)
	@test -n "$$DATA" || { echo "Name the folder of clips: make features DATA=..."; exit 2; }
	@$(PY) -m extract --data "$$DATA" --cache "$$CACHE" $(weights) $(jobs) $(where) $(ARGS)

train: $(READY) ## CACHE → runs/<id>: fit a model (RUN= names the folder, SEEDS=5: five seeds and their ensemble)
	@$(PY) -m train fit --cache "$$CACHE" $(if $(RUN),--run "$$RUN") $(seeds) $(ARGS)

evaluate: $(READY) ## score RUN (default: the newest) on CACHE's SPLIT (default test) beside trivial baselines
	@$(PY) -m train evaluate --cache "$$CACHE" $(if $(RUN),--run "$$RUN") --split "$$SPLIT" $(ARGS)

predict: $(READY) ## CLIP=file.mp4 → class, confidence, start, end and a picture, by RUN (default: the newest)
	@test -f "$$CLIP" || { echo "Name a media file: make predict CLIP=file.mp4 (found: '$$CLIP')"; exit 2; }
	@set -e; $(pick_run); clip="$$CLIP"; $(predict_clip) $(ARGS)

test: $(READY) ## run the tests (ARGS="-m slow", ARGS="-k audio", ...)
	@$(PY) -m pytest $(ARGS)

lint: $(READY) ## ruff and mypy
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy

check: lint test ## lint, then test: what must pass before a change is handed in

bench: $(READY) ## measure what the README's table says, in under 10 minutes → bench/bench.json, bench.md
	@$(PY) benchmarks/bench_all.py $(if $(WEIGHTS),--weights "$$WEIGHTS") $(ARGS)

clean: ## delete demo/ and what the tools left; never .venv, features/ or runs/
	@rm -rf demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
	@echo "Deleted demo/ and tool leftovers. Kept .venv, features/ and runs/."
