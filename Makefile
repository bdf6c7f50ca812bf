# Every target is a task of ./dev, which does all of its own set-up.
TASKS := demo serve test test-fresh test-slow test-faults test-fuzz test-gpu gpu-report bundle soak lint lint-deploy test-deploy test-cluster type check coverage install lock render up

.DEFAULT_GOAL := help
.PHONY: help $(TASKS)

help:
	@./dev

$(TASKS):
	@./dev $@ $(ARGS)
