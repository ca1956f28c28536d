"""The exercises of the course: one module for each chapter, `chNN.py`, with a list named `EXERCISES`.

To add one: write the solution, at least three typical wrong answers, and a judge that names each by its symptom;
`tests/test_checks.py` then holds them to it.
"""
