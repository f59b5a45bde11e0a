# `make` alone lists the targets. Values are taken as given, whatever they hold:
#   make predict CLIP='holiday $5 "best of".mp4'
# Variables come from the command line only, never from the environment.
VARIABLES := DATA CACHE RUN CLIP MEDIA OUT FORMATS LABELS HOP SPLIT JOBS DASK STORE PART SEEDS WEIGHTS \
	ARGS DEMO_CLIPS \
	TRIALS SPACE \
	PYTHON LOCK TORCH_INDEX
DATA =
CACHE = features
RUN =
CLIP =
MEDIA =
OUT =
FORMATS =
LABELS =
HOP =
JOBS =
DASK =
STORE =
PART =
SEEDS =
TRIALS = 60
SPACE =
WEIGHTS =
ARGS =
SPLIT = test
DEMO_CLIPS = 128
PYTHON = python3
LOCK = constraints.txt
TORCH_INDEX =
# Make would expand a "$" in them, and the shell would run what it finds: so make reads them as
# plain text here, recipes get them by the environment, and name them in double quotes alone.
$(foreach name,$(VARIABLES),$(eval override $(name) := $$(value $(name))))
MAKEOVERRIDES =
export $(VARIABLES)

PY := .venv/bin/python
READY := .venv/.installed
# Only ARGS is more than one word: it is split as a shell splits words, and nothing in it is run.
define APPEND_ARGS
import os, shlex, sys
def words(text):
    try:
        return shlex.split(text)
    except ValueError as error:
        print("error: ARGS: expected words, quotes in pairs:", error, file=sys.stderr)
        sys.exit(2)
os.execv(sys.argv[1], sys.argv[1:] + words(os.environ["ARGS"]))
endef
export APPEND_ARGS
with_args := $(PY) -c "$$APPEND_ARGS" $(PY)
# A worker for each core; one that is done takes over the rear half of what another has left.
tests := -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal
jobs := $${JOBS:+--jobs="$$JOBS"}
weights := $${WEIGHTS:+--weights="$$WEIGHTS"}
hop := $${HOP:+--hop-seconds="$$HOP"}
where := $${DASK:+--dask="$$DASK"} $${STORE:+--store="$$STORE"} $${PART:+--part="$$PART"}
run := $${RUN:+--run="$$RUN"}
formats := $${FORMATS:+--formats="$$FORMATS"}
media := $${MEDIA:+--media="$$MEDIA"}
seeds := $${SEEDS:+--seeds="$$SEEDS"}
lock := $${LOCK:+--constraint="$$LOCK"}

# Composes the two stages, which do not import each other: the trainer says how the clip must be
# extracted for its run, and the features go to a temporary cache. $(1): the trainer, with its words.
# A name that begins with "-" is no option.
predict_clip = case "$$clip" in -*) clip="./$$clip";; esac; \
	scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; trap 'exit 130' INT TERM; \
	chosen=$$($(PY) -m train features $(run) --out="$$scratch/like.json"); \
	$(PY) -m extract clip "$$clip" --cache="$$scratch/cache" --like="$$scratch/like.json" $(weights); \
	$(1) -m train predict --run="$$chosen" --cache="$$scratch/cache"

# The same for recordings, whose windows stay in a cache beside the answers: what is there is not
# extracted again. Files that can't be read are named by both stages (exit code 1), and stop none.
annotate_media = case "$$media" in -*) media="./$$media";; esac; \
	case "$$LABELS" in -*) LABELS="./$$LABELS";; esac; \
	scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; trap 'exit 130' INT TERM; \
	chosen=$$($(PY) -m train features $(run) --out="$$scratch/like.json"); code=0; \
	$(PY) -m extract clip "$$media" --cache="$$out/cache" --like="$$scratch/like.json" \
		--hop-seconds="$${HOP:-5}" $(weights) $(jobs) || { code=$$?; test $$code = 1 || exit $$code; }; \
	test -z "$$LABELS" || $(PY) -m cache relabel "$$out/cache" "$$LABELS"; \
	$(1) -m train annotate --run="$$chosen" --cache="$$out/cache" --out="$$out" $(formats) \
		--media="$$media"; exit $$code

.DEFAULT_GOAL := help
.PHONY: help setup demo features train sweep watch runs evaluate predict annotate export test lint check bench clean

help: ## list the targets and their variables
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: $(VARIABLES)"

setup: $(READY) ## make .venv and install the tested versions; the other targets do it when needed
	@echo "Ready: .venv"

$(READY): requirements.txt pyproject.toml constraints.txt
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		printf '%s\n' "Python 3.11 or newer is needed and '$$PYTHON' is not that. Name one: make setup PYTHON=python3.11"; exit 2; }
	@test -x $(PY) || "$$PYTHON" -m venv .venv
	@test -z "$$TORCH_INDEX" || $(PY) -m pip install --no-deps --index-url="$$TORCH_INDEX" \
		$(lock) torch torchvision
	@$(PY) -m pip install --disable-pip-version-check $(lock) -e '.[dev]'
	@touch $@

demo: $(READY) ## all of it on a synthetic set, in minutes: synthesize, extract, train, score, draw
	@$(PY) -m extract.demo demo/data --clips="$$DEMO_CLIPS" $(jobs)
	@weights="$$WEIGHTS"; \
	hub="$${TORCH_HOME:-$${XDG_CACHE_HOME:-$$HOME/.cache}/torch}/hub/checkpoints"; \
	if test -z "$$weights" && ls "$$hub"/mobilenet_v3_small-*.pth >/dev/null 2>&1; then weights=imagenet; fi; \
	if test -z "$$weights"; then weights=random:0; \
		echo "No ImageNet weights on this disk: the demo uses random ones. WEIGHTS=imagenet fetches them."; fi; \
	$(PY) -m extract --data demo/data --cache demo/cache --weights="$$weights" --max-failures 1 $(jobs)
	@rm -rf demo/run
	@$(with_args) -m train fit --cache demo/cache --run demo/run $(seeds) >demo/fit.log
	@$(PY) -m train evaluate --cache demo/cache --run demo/run --split test --media demo/data >demo/evaluate.log
	@set -e; RUN=demo/run; clip=$$($(PY) -m extract.demo.showcase demo/data demo/run/predictions_test.json); \
	id=$$(basename "$$clip" .mp4); \
	( $(call predict_clip,$(PY)) >demo/predict.log ); \
	sed -n -E '/^(test:|  +model|top-1|segment acc|mIoU |events shorter)/p' demo/evaluate.log; \
	echo; echo "a test clip, $$clip"; \
	echo "(of the films whose event is shorter than the clip the middle one: half are answered better, half worse)"; \
	sed -n '/predicted_start_s/,/^pictures/p' demo/predict.log | sed '/^pictures/d'; \
	awk -F '&' -v id="$$id" '$$2 == id { print "annotated: " $$1 ", " $$4 " to " $$5 " s" }' demo/data/testSet.txt
	@set -e; RUN=demo/run; media=demo/data/recordings/walk.mp4; out=demo/annotations; HOP=5; \
	LABELS=demo/data/recordings/events.csv; ( $(call annotate_media,$(PY)) ) >demo/annotate.log; \
	echo; echo "a recording, $$media:"; \
	sed -n '/^walk.mp4, /,/^written/p' demo/annotate.log | sed '1d;/^written/d'; \
	echo "annotated:"; awk -F ',' 'NR > 1 { printf "  %8.1f to %6.1f s  %s\n", $$2, $$3, $$4 }' "$$LABELS"
	@echo; echo "play it beside what was found, and correct that: demo/annotations/walk/timeline.html"
	@echo "failures first, and all clips to play: demo/run/report.html"
	@sed -n 's/^pictures: /the clip: /p' demo/predict.log
	@echo "all scores: demo/evaluate.log"

features: $(READY) ## DATA=folder → CACHE (default features/): extract what is not done yet (HOP=5: a clip every 5 s of long recordings; DASK= PART= STORE=: docs/scaling.md)
	@test -n "$$DATA" || { echo "Name the folder of clips: make features DATA=..."; exit 2; }
	@$(with_args) -m extract --data="$$DATA" --cache="$$CACHE" $(hop) $(weights) $(jobs) $(where)

train: $(READY) ## CACHE → runs/<id>: fit a model (RUN= names the folder, SEEDS=5: five seeds and their ensemble)
	@$(with_args) -m train fit --cache="$$CACHE" $(run) $(seeds)

sweep: $(READY) ## CACHE → OUT (default runs/sweep): search settings on val in TRIALS=60 trials, JOBS at a time, of SPACE=file.json (docs/search.md); go on with the same command
	@$(with_args) -m train sweep --cache="$$CACHE" --trials="$$TRIALS" $${OUT:+--out="$$OUT"} \
		$${SPACE:+--space="$$SPACE"} $(jobs)

watch: $(READY) ## how far RUN (default: the newest) is: curves, best epoch, time left, why it ended
	@$(with_args) -m train watch $${RUN:+"$$RUN"}

runs: $(READY) ## list runs/: when, scores, settings that differ; those together that can be compared (ARGS="--sort miou")
	@$(with_args) -m train runs

evaluate: $(READY) ## score RUN (default: the newest) on CACHE's SPLIT (default test) beside trivial baselines (MEDIA=folder of its clips: the page plays them)
	@$(with_args) -m train evaluate --cache="$$CACHE" $(run) --split="$$SPLIT" $(media)

predict: $(READY) ## CLIP=file.mp4 → class, confidence, start, end and a picture, by RUN (default: the newest)
	@test -e "$$CLIP" || { printf '%s\n' "Name a media file: make predict CLIP=file.mp4 (found: '$$CLIP')"; exit 2; }
	@set -e; clip="$$CLIP"; $(call predict_clip,$(with_args))

annotate: $(READY) ## MEDIA=file or folder → OUT (default annotations/): the events of whole recordings, by RUN (FORMATS=page,csv LABELS=what is true HOP=5)
	@test -e "$$MEDIA" || { printf '%s\n' "Name a file or a folder: make annotate MEDIA=recordings (found: '$$MEDIA')"; exit 2; }
	@test -z "$$LABELS" || test -e "$$LABELS" || { printf '%s\n' "LABELS= names what is true, a file or a folder (found: '$$LABELS')"; exit 2; }
	@set -e; media="$$MEDIA"; out="$${OUT:-annotations}"; $(call annotate_media,$(with_args))

export: $(READY) ## RUN (default: the newest) → OUT (default model/): a folder to hand over, weights, card and ONNX (ARGS="--licence MIT")
	@$(with_args) -m train export $(run) --out="$${OUT:-model}"

test: $(READY) ## run the tests but those of whole systems (ARGS="-m system", ARGS="-k audio", ...)
	@$(with_args) $(tests)

lint: $(READY) ## ruff and mypy
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy

check: lint ## lint, then all tests but the slow ones: what must pass before a change is handed in
	@$(with_args) $(tests) -m "not slow"

bench: $(READY) ## measure the table of docs/performance.md, in under 10 minutes → bench/bench.json, bench.md
	@$(with_args) benchmarks/bench_all.py $(weights)

clean: ## delete demo/ and what the tools left; never .venv, features/ or runs/
	@rm -rf demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
	@echo "Deleted demo/ and tool leftovers. Kept .venv, features/ and runs/."
