"""Steps, their stored results and the runner. Knows no machine learning."""
