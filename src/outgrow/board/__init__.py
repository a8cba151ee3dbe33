"""Methods against naive over tasks and pairs, and the test that compares them."""
