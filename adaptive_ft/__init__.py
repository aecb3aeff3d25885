"""Adaptive fine-tuning of vision-language transformers: per input and component, pretrained or tuned weights."""
