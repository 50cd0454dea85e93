"""The model zoo: recipes that are ready to train, with their nets and data sets."""
