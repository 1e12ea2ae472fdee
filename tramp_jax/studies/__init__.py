"""Studies: tables of models that differ in a few options, such as the paper's ablations. See docs/studies.md."""
