"""Results for people and programs: terminal, Markdown, LaTeX, HTML, plots, Parquet, W&B panels."""
