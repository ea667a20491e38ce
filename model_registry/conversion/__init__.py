"""Make a wavelet checkpoint out of a Llama-shaped one: ``wave-serve convert``.

``source`` reads what is there, ``target_config`` says what it becomes, ``weights`` places the weight files and
``remote_code`` the model's code beside them; ``convert`` does all of it.
"""
