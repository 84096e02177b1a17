"""scVI, scANVI and totalVI as scArches documents them: scvi-tools' own classes, by scvi-tools' names and defaults.

Lopez 2018, doi 10.1038/s41592-018-0229-2; Xu 2021, doi 10.15252/msb.20209620; Gayoso 2021, doi
10.1038/s41592-020-01050-x. Training, inference and all statistics are scvi-tools'. What differs on purpose:

- Folders are read as data: what scvi-tools unpickles is a copy that holds plain values only
  (:func:`hub_client.interop.scvi_files.safe_copy`), so that a stranger's model runs no code.
- ``load_query_data`` leaves the reference's cells where they are, to the bit: their latent, labels, library sizes and
  expression. The weights of each key stay together and have products of their own (:mod:`hub_client.compat._split`),
  and training moves those of new categories only (:mod:`hub_client.compat._surgery`): also the decoder's normalisation,
  the library's encoder and the classifier's statistics stay, which scvi-tools moves. Weight decay, which would move
  frozen weights, is off in such models unless it is asked for. What an option such as
  ``freeze_batchnorm_decoder=False`` lets move is logged. Sums in another order make latents differ from scvi-tools' own
  by rounding.
- A model that came out of surgery stays so when it is saved and loaded again; scvi-tools' own trains whole then.
- A minibatch of one cell trains, where scvi-tools' batch normalisation refuses it; a query for scANVI may have some of
  the labels, and none unlabelled.
- Parameters that scvi-tools put between the documented ones are keywords behind them.

:func:`hub_client.from_scvi` makes a release of such a model, :meth:`hub_client.Model.to_scvi` a model of a release. As
scvi-tools does, ``setup_anndata`` writes what it registers into the AnnData it is given.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, Literal, Self

import anndata
import numpy as np
import rich.pretty  # noqa: F401  scvi-tools' view_anndata_setup uses it and does not import it
import torch
from anndata import AnnData
from numpy.typing import NDArray

from hub_client import errors
from hub_client.compat import _surgery
from hub_client.compat._split import splitting, taking_one_cell
from hub_client.files import atomic
from hub_client.interop import scvi_files
from hub_client.models.architectures.scvi.modules import scvi_tools

_models = scvi_tools().model
_log = logging.getLogger(__name__)
SURGERY = "surgery_"
"""The attribute with the record of a model's surgery; scvi-tools saves those that end with an underscore."""
_Dispersion = Literal["gene", "gene-batch", "gene-label", "gene-cell"]


class _ScviToolsModel:
    """What the three classes do otherwise than scvi-tools' own: how they read folders, and surgery."""

    @classmethod
    def load(
        cls,
        dir_path: str,
        adata: Any = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        backup_url: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the model in a folder that scvi-tools saved (0.15 or later), read as data.

        Parameters
        ----------
        dir_path, prefix
            The folder, and what its files' names begin with.
        adata
            Cells set up as the model's were; None: those saved with it; False: none.
        accelerator, device
            The device to put the model on.
        backup_url
            Refused: pull or download a model first.
        **kwargs
            What else scvi-tools' ``load`` takes.

        Raises
        ------
        NotFound, IntegrityError
            If the folder has no such files, or they ask for more than a model needs.
        """
        if backup_url is not None:
            raise errors.Unsupported(
                f"backup_url={backup_url!r} is not fetched, so that what is loaded is what you looked at. Download "
                "it to a folder, and load that.",
                kind=cls.__name__,
                verb="load",
            )
        with scvi_files.safe_copy(dir_path, prefix=prefix or "") as folder:
            model = super().load(str(folder), adata, accelerator, device, prefix, **kwargs)  # type: ignore[misc]
        if (record := getattr(model, SURGERY, None)) is not None:
            new = _surgery.sizes(model.registry_, model.module.state_dict())
            _surgery.frozen_again(model.module, record, new=new)
        return model

    @classmethod
    def load_query_data(
        cls,
        adata: Any = None,
        reference_model: Any = None,
        inplace_subset_query_vars: bool = False,
        accelerator: str = "auto",
        device: int | str = "auto",
        unfrozen: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return a model with room for the categories of a query, whose reference does not move.

        Parameters
        ----------
        adata
            The query, with the reference's genes in its order (see :meth:`prepare_query_anndata`).
        reference_model
            A trained model of this class, or the folder of one.
        inplace_subset_query_vars
            Bring the query's genes into the reference's order, in place.
        accelerator, device
            The device to put the model on.
        unfrozen
            Let everything train; the reference moves then.
        **kwargs
            What else scvi-tools' ``load_query_data`` takes: ``registry``, ``transfer_batch``, ``datamodule``, and what
            to freeze. ``freeze_dropout`` (False) trains without dropout. Each of these is True, and what training moves
            of the reference where it is False is logged: ``freeze_expression`` and ``freeze_batchnorm_encoder`` (the
            latent, and all that follows), ``freeze_decoder_first_layer`` and ``freeze_batchnorm_decoder`` (expression;
            scvi-tools' own default for the latter is False), ``freeze_classifier`` (labels).
        """
        from scvi.model.base._archesmixin import _get_loaded_data

        options = _surgery.DEFAULTS | {name: kwargs[name] for name in _surgery.DEFAULTS if name in kwargs}
        with _readable(reference_model) as known:
            old, names, weights, _ = _get_loaded_data(known, device="cpu")  # as scvi-tools' own surgery reads a model
            before = _surgery.sizes(old["registry_"], weights)
            is_one = isinstance(adata, AnnData) and adata.n_obs == 1
            if is_one and inplace_subset_query_vars:
                adata._inplace_subset_var(names)
            model = super().load_query_data(  # type: ignore[misc]
                # scvi-tools makes no model with library sizes around a single cell
                anndata.concat([adata, adata], index_unique="-", merge="same", uns_merge="same") if is_one else adata,
                known,
                inplace_subset_query_vars=inplace_subset_query_vars,
                accelerator=accelerator,
                device=device,
                unfrozen=unfrozen,
                **kwargs | options,
            )
        if is_one:
            model.adata = adata
        model._read_labels()  # scvi-tools leaves the reference's in their place
        after = _surgery.sizes(model.registry_, model.module.state_dict())
        _surgery.settle(model.module, weights, old=before, new=after)
        record = None if unfrozen else {"known": before, "options": options}
        setattr(model, SURGERY, record)
        if record is not None:
            _surgery.freeze(model.module, record, new=after)
        for what, by in _surgery.moved(options).items() if record else [("all of the reference", ["unfrozen=True"])]:
            _log.warning("training this model moves %s, as %s lets it.", what, " and ".join(by))
        return model

    def _read_labels(self) -> None:
        """Read the labels of the model's cells, for a class that has some."""

    @classmethod
    def convert_legacy_save(
        cls, dir_path: str, output_dir_path: str, overwrite: bool = False, prefix: str | None = None
    ) -> None:
        """Write the model in a folder of scvi-tools before 0.15, read as data, in today's format.

        Raises
        ------
        InvalidInput
            If ``output_dir_path`` exists and ``overwrite`` is False.
        """
        target = Path(output_dir_path)
        if target.exists() and not overwrite:
            raise errors.InvalidInput(
                f"{target} exists already. Choose another folder, or pass overwrite=True.",
                facts={"output_dir_path": output_dir_path},
            )
        name = f"{prefix or ''}{scvi_files.MODEL}"
        with scvi_files.safe_copy(dir_path, prefix=prefix or "") as folder, atomic.staged_file(target / name) as part:
            shutil.copyfile(folder / name, part)

    @staticmethod
    def load_registry(dir_path: str, prefix: str | None = None) -> dict[str, Any]:
        """Return the registry of a saved model: what scvi-tools read of its AnnData."""
        with scvi_files.safe_copy(dir_path, prefix=prefix or "") as folder:
            registry: dict[str, Any] = _models.base.BaseModelClass.load_registry(str(folder), prefix)
        return registry

    @staticmethod
    def view_setup_args(dir_path: str, prefix: str | None = None) -> None:
        """Print how a saved model's AnnData was set up."""
        with scvi_files.safe_copy(dir_path, prefix=prefix or "") as folder:
            _models.base.BaseModelClass.view_setup_args(str(folder), prefix)

    @staticmethod
    def prepare_query_anndata(
        adata: Any, reference_model: Any, return_reference_var_names: bool = False, inplace: bool = True
    ) -> Any:
        """Bring a query's genes into a reference's order, with zeros for those it lacks.

        Returns
        -------
        AnnData or pandas.Index or None
            The query, if not ``inplace``; the reference's genes, if ``return_reference_var_names``.
        """
        with _readable(reference_model) as known:
            return _models.base.ArchesMixin.prepare_query_anndata(adata, known, return_reference_var_names, inplace)


@contextmanager
def _readable(reference: Any) -> Iterator[Any]:
    """Yield a reference that scvi-tools can read safely: a model as it is, a folder as a safe copy of it."""
    if isinstance(reference, str | Path):
        with scvi_files.safe_copy(reference) as folder:
            yield str(folder)
    else:
        yield reference


def _sparing(train: Any) -> Any:
    """Return a ``train`` whose plan leaves frozen weights alone, where a model has any."""

    @wraps(train)
    def spared(*args: Any, **kwargs: Any) -> Any:
        given = signature(train).bind(*args, **kwargs)
        if getattr(args[0], SURGERY, None) is not None:
            given.arguments["plan_kwargs"] = {"weight_decay": 0.0} | (given.arguments.get("plan_kwargs") or {})
        return train(*given.args, **given.kwargs)

    return spared


class SCVI(_ScviToolsModel, _models.SCVI):  # type: ignore[misc, name-defined]
    """scVI; parameters as in :class:`scvi.model.SCVI`."""

    _module_cls = splitting(_models.SCVI._module_cls)
    train = _sparing(_models.SCVI.train)

    def __init__(
        self,
        adata: Any = None,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: _Dispersion = "gene",
        gene_likelihood: Literal["zinb", "nb", "poisson", "normal"] = "zinb",
        latent_distribution: Literal["normal", "ln"] = "normal",
        *,
        registry: dict[str, Any] | None = None,
        use_observed_lib_size: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            adata,
            registry,
            n_hidden=n_hidden,
            n_latent=n_latent,
            n_layers=n_layers,
            dropout_rate=dropout_rate,
            dispersion=dispersion,
            gene_likelihood=gene_likelihood,
            use_observed_lib_size=use_observed_lib_size,
            latent_distribution=latent_distribution,
            **kwargs,
        )


class SCANVI(_ScviToolsModel, _models.SCANVI):  # type: ignore[misc, name-defined]
    """scANVI; parameters as in :class:`scvi.model.SCANVI`."""

    _module_cls = splitting(_models.SCANVI._module_cls)
    labels_: NDArray[Any]

    def __init__(
        self,
        adata: Any,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: _Dispersion = "gene",
        gene_likelihood: Literal["zinb", "nb", "poisson"] = "zinb",
        linear_classifier: bool = False,
        *,
        registry: dict[str, Any] | None = None,
        use_observed_lib_size: bool = True,
        datamodule: Any = None,
        **model_kwargs: Any,
    ) -> None:
        super().__init__(
            adata,
            registry,
            n_hidden=n_hidden,
            n_latent=n_latent,
            n_layers=n_layers,
            dropout_rate=dropout_rate,
            dispersion=dispersion,
            gene_likelihood=gene_likelihood,
            use_observed_lib_size=use_observed_lib_size,
            linear_classifier=linear_classifier,
            datamodule=datamodule,
            **model_kwargs,
        )
        self._read_labels()

    def _read_labels(self) -> None:
        """Read the labels of the model's cells."""
        if self.adata is not None:
            super()._set_indices_and_labels()

    def _set_indices_and_labels(self, datamodule: Any = None) -> None:
        """Read the cells' labels while the model is made; then, one unlabelled cell is behind them.

        scvi-tools makes an output for the unlabelled value where the cells have neither it nor all the labels, as a
        query may.
        """
        super()._set_indices_and_labels(datamodule)
        if self.adata is not None and self.unlabeled_category_ not in self.labels_:
            self.labels_ = np.append(self.labels_, self.unlabeled_category_)

    @classmethod
    def from_scvi_model(
        cls,
        scvi_model: Any,
        unlabeled_category: str,
        labels_key: str | None = None,
        adata: Any = None,
        *,
        registry: dict[str, Any] | None = None,
        **scanvi_kwargs: Any,
    ) -> Self:
        """Return a scANVI that starts from a trained scVI.

        Parameters
        ----------
        scvi_model
            A trained scVI.
        unlabeled_category
            The label that means a cell has none.
        labels_key
            The obs column of labels, if scVI was set up without.
        adata
            Cells, if not those of ``scvi_model``.
        registry
            As for scvi-tools.
        **scanvi_kwargs
            Further parameters of scANVI.
        """
        made = _models.SCANVI.from_scvi_model(
            scvi_model, unlabeled_category, labels_key, adata, registry, **scanvi_kwargs
        )
        cls.setup_anndata(made.adata, **made.registry_["setup_args"])
        given = made.init_params_
        keywords = {name: value for group in given["kwargs"].values() for name, value in group.items()}
        ours = cls(made.adata, **given["non_kwargs"], **keywords)
        ours.module.load_state_dict(made.module.state_dict())
        ours.was_pretrained = True
        return ours

    @_sparing
    def train(
        self,
        max_epochs: int | None = None,
        n_samples_per_label: float | None = None,
        check_val_every_n_epoch: int | None = None,
        train_size: float = 0.9,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int = 128,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> Any:
        """Train, with scvi-tools' own parameters; ``trainer_kwargs`` are those that scArches does not document."""
        return super().train(
            max_epochs=max_epochs,
            n_samples_per_label=n_samples_per_label,
            check_val_every_n_epoch=check_val_every_n_epoch,
            train_size=train_size,
            validation_size=validation_size,
            shuffle_set_split=shuffle_set_split,
            batch_size=batch_size,
            accelerator=accelerator,
            devices=devices,
            datasplitter_kwargs=datasplitter_kwargs,
            plan_kwargs=plan_kwargs,
            **trainer_kwargs,
        )


class TOTALVI(_ScviToolsModel, _models.TOTALVI):  # type: ignore[misc, name-defined]
    """totalVI; parameters as in :class:`scvi.model.TOTALVI`."""

    _module_cls = splitting(_models.TOTALVI._module_cls)
    _training_plan_cls = taking_one_cell(_models.TOTALVI._training_plan_cls)

    @classmethod
    def setup_anndata(
        cls,
        adata: Any,
        protein_expression_obsm_key: str,
        protein_names_uns_key: str | None = None,
        batch_key: str | None = None,
        layer: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register where an AnnData has counts, proteins and batches; as scvi-tools' own."""
        super().setup_anndata(
            adata,
            protein_expression_obsm_key,
            protein_names_uns_key,
            batch_key=batch_key,
            layer=layer,
            size_factor_key=size_factor_key,
            categorical_covariate_keys=categorical_covariate_keys,
            continuous_covariate_keys=continuous_covariate_keys,
            **kwargs,
        )

    @classmethod
    def setup_mudata(
        cls,
        mdata: Any,
        rna_layer: str | None = None,
        protein_layer: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        modalities: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register where a MuData has counts, proteins and batches; as scvi-tools' own."""
        super().setup_mudata(
            mdata,
            rna_layer,
            protein_layer,
            batch_key=batch_key,
            size_factor_key=size_factor_key,
            categorical_covariate_keys=categorical_covariate_keys,
            continuous_covariate_keys=continuous_covariate_keys,
            modalities=modalities,
            **kwargs,
        )

    @_sparing
    def train(
        self,
        max_epochs: int | None = None,
        lr: float = 4e-3,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float = 0.9,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int = 256,
        early_stopping: bool = True,
        check_val_every_n_epoch: int | None = None,
        reduce_lr_on_plateau: bool = True,
        n_steps_kl_warmup: int | None = None,
        n_epochs_kl_warmup: int | None = None,
        adversarial_classifier: bool | None = None,
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Train, with scvi-tools' own parameters."""
        return super().train(
            max_epochs=max_epochs,
            lr=lr,
            accelerator=accelerator,
            devices=devices,
            train_size=train_size,
            validation_size=validation_size,
            shuffle_set_split=shuffle_set_split,
            batch_size=batch_size,
            early_stopping=early_stopping,
            check_val_every_n_epoch=check_val_every_n_epoch,
            reduce_lr_on_plateau=reduce_lr_on_plateau,
            n_steps_kl_warmup=n_steps_kl_warmup,
            n_epochs_kl_warmup=n_epochs_kl_warmup,
            adversarial_classifier=adversarial_classifier,
            datasplitter_kwargs=datasplitter_kwargs,
            plan_kwargs=plan_kwargs,
            **kwargs,
        )

    @torch.inference_mode()
    def get_likelihood_parameters(
        self,
        adata: Any = None,
        indices: Sequence[int] | None = None,
        n_samples: int | None = 1,
        give_mean: bool | None = False,
        batch_size: int | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Return the parameters of the likelihood, which scvi-tools documents for totalVI and does not compute.

        Parameters
        ----------
        adata, indices
            Cells, and the rows of some; None: the model's, and all.
        n_samples
            Draws of the latent.
        give_mean
            Average over the draws.
        batch_size
            Cells at a time.

        Returns
        -------
        dict
            ``mean`` and ``dispersions`` (inverse), ``(cells, genes)``, and ``dropout``, a probability, for zinb; of
            proteins, ``(cells, proteins)``: ``protein_background`` and ``protein_foreground`` (means of the two
            components), ``protein_mixing`` (probability of the background) and ``protein_dispersions``. With several
            draws that are not averaged, ``(draws, cells, ...)``. Gayoso 2021, Methods, equations 5 to 12.
        """
        cells, draws = self._validate_anndata(adata), n_samples or 1
        parts = [
            _likelihood(self.module, tensors, draws=draws)
            for tensors in self._make_data_loader(adata=cells, indices=indices, batch_size=batch_size)
        ]
        joined = {name: np.concatenate([part[name] for part in parts], axis=-2) for name in parts[0]}
        return {name: values.mean(axis=0) if give_mean and draws > 1 else values for name, values in joined.items()}


def _likelihood(module: Any, tensors: Any, *, draws: int) -> dict[str, NDArray[np.float32]]:
    """Return the parameters for a minibatch, ``([draws,] cells, genes or proteins)``."""
    _, decoded = module.forward(tensors, inference_kwargs={"n_samples": draws}, compute_loss=False)
    genes, proteins = decoded["px_"], decoded["py_"]
    parameters = {
        "mean": genes["rate"],
        "dispersions": genes["r"].expand_as(genes["rate"]),
        "protein_background": proteins["rate_back"],
        "protein_foreground": proteins["rate_fore"],
        "protein_mixing": torch.sigmoid(proteins["mixing"]),
        "protein_dispersions": proteins["r"].expand_as(proteins["rate_fore"]),
    }
    if module.gene_likelihood == "zinb":
        parameters["dropout"] = torch.sigmoid(genes["dropout"])
    return {name: values.cpu().numpy() for name, values in parameters.items()}
