# Two commands: `make demo` and `make test`. Each sets up what it needs in $(VENV).
PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo
BIN := $(VENV)/bin
# as a path: a folder above a clone named autoprompt would hide the package from Python otherwise
EDITABLE := --config-settings editable_mode=compat --editable

.PHONY: demo test check clean

$(VENV)/demo.stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "autoprompt needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(EDITABLE) .
	touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(EDITABLE) '.[test,dashboard,postgres]'
	touch $@

demo: $(VENV)/demo.stamp
	@if [ -e "$(RUN)" ] && [ ! -e "$(RUN)/run.toml" ] && [ ! -e "$(RUN)/.lock" ]; then \
		echo "RUN=$(RUN): is there and no run; name another folder" >&2; exit 2; fi
	rm -rf $(RUN) $(RUN)-bundle
	$(BIN)/autoprompt search examples/tickets/train.csv --out $(RUN) --shots 16 \
		--unlabeled examples/tickets/unlabeled.csv --minutes 3
	$(BIN)/autoprompt test $(RUN) examples/tickets/test.csv
	$(BIN)/autoprompt leaderboard $(RUN)
	$(BIN)/autoprompt export $(RUN) $(RUN)-bundle
	printf '%s\n' \
		'I was charged twice for the same month.' \
		'The parcel has been stuck at the depot since Monday.' \
		'How do I change the e-mail address I sign in with?' \
		| $(BIN)/autoprompt predict $(RUN)-bundle - --proba

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

check: $(VENV)/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs build dist *.egg-info
