"""Which of several variants of a model are worth having: quality against speed and size, and the choice by limits."""
